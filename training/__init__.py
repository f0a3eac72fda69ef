"""How the model is trained: configuration, photo store, the Lightning module and its callbacks."""
