"""The report: what was recorded and found, on one HTML page that needs nothing from outside.

``sources`` finds the dataset and the analysis; each section has a file of its own, which reads
what it needs and fills a template; ``draw`` turns arrays into SVG, PNG and packed maps; ``page``
puts the sections together.
"""
