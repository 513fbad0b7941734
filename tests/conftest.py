from hypothesis import settings

settings.register_profile("replaystore", deadline=None)  # the first call of a kernel compiles it
settings.load_profile("replaystore")
