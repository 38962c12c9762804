"""Pure functions from (snapshot, journal state, config) to actions."""
