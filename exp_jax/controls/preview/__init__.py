"""The textured preview: a portrait's own pixels on its fitted head, without a network."""
