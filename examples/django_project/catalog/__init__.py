"""An app of the project: products and their descriptions."""
