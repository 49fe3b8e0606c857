"""A folder of results: names, lines of results.jsonl, contact sheets, previews, HTML reports.

The rooms above decide what goes into them; nothing here knows how a picture was made.
"""
