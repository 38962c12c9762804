"""Pure functions from (snapshot, journal state, config) to actions. No clock, no I/O."""
