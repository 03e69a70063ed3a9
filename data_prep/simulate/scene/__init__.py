"""The simulated world: terrain, houses and roadside objects as triangle meshes."""
