"""Cohorts: many cases from a manifest, in warm processes here or on a cluster. Importable without torch."""
