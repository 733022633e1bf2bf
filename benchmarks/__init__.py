"""Figures of this machine, each a line `name: value unit`. See README.md."""
