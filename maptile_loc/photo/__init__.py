"""The pose of a photograph in 6 degrees of freedom, from the edges of the extruded map."""
