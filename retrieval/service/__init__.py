"""The web service and its page: an index behind HTTP.

One process speaks HTTP (app, guard, uploads); others, one a core, hold the index and do the work (workers, engine).
"""
