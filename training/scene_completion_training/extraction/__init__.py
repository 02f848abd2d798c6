"""Posed sequences out of users' bags: poses, scale, keyframes, rectification, masks, and a report for every bag."""
