"""How the tables came to be, one module per form; `kubeserve.database.migrate` runs them."""
