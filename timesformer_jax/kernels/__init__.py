"""Attention and products as each kind of device does them best: pure functions of arrays, which know no model."""
