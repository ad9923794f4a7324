"""Names of files in a root that several rooms write or read. What they contain is described where they are written."""

SUMMARY, PAGE = "summary.json", "report.html"
"""Of a finished run."""
SWEEP_SUMMARY, SWEEP_PAGE = "sweep.json", "sweep.html"
"""Of a finished sweep."""
LEDGER = "ledger.json"
"""Of a sweep: which trial built and used which artifact."""
