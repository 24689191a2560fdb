"""Upload a model, see it proved, deploy it, call it; it sleeps when nobody calls."""
