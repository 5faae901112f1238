"""Numbers to HTML pages. The only room that imports matplotlib, jinja2 and PIL."""
