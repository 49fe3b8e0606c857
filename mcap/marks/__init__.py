"""Marks of generated pictures: signed manifests (C2PA), certificates, and what finds all marks."""
