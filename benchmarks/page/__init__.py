"""The parts of docs/results.md, each out of what benchmarks wrote."""
