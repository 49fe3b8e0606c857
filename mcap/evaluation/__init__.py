"""Subjects compared: trained, drawn, measured, and told with intervals.

    requests -> train -> draw -> measure -> summarize -> results.csv, summary.json, report.html

What is missing (a weight, a photo, a face) leaves a gap that says so, and stops nothing else.
"""
