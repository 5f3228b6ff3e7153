"""One file for each family of GANs, named as the field names it; see `ganutils` for the map."""
