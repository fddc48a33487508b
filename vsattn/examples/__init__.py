"""Adapters for new modalities, each one file to start yours from: ``vsattn init FOLDER --example points``."""
