"""The model under study: loading, its units, hooks and generation. Only this folder knows torch."""
