"""Where models come from (a package, a hub, a path, chance, another model) and how small ones are trained."""
