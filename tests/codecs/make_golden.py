"""Writes golden files that are missing; with --replace NAME ... those cases anew.

python tests/codecs/make_golden.py [--replace NAME ...]

A golden file holds what a release wrote. Replace one only where the format changes before a release, or with a new
format version that keeps the old files readable.
"""

import argparse


def main():
    from test_contract import CASES, GOLDEN, golden_bytes, golden_path  # lies beside this file

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replace", nargs="+", default=[], metavar="NAME", help="cases to write anew, or 'all'")
    replace = set(parser.parse_args().replace)
    unknown = replace - {case.name for case in CASES} - {"all"}
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    GOLDEN.mkdir(exist_ok=True)
    for case in CASES:
        path = golden_path(case)
        if not path.exists() or replace & {case.name, "all"}:
            path.write_bytes(golden_bytes(case))
            print(path)


if __name__ == "__main__":
    main()
