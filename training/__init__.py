"""Offline training of the student network: posed video in, student bundle out. Needs torch."""
