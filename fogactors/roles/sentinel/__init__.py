"""The parts of `node-sentinel`, one actor a file; `fogactors.roles.node_sentinel` puts them together."""
