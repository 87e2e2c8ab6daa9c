"""Bruker ParaVision: parameter files (JCAMP-DX), studies and their fields, reconstructions and their frames."""
