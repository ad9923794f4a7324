"""Names of files and folders in a root that several rooms use. What they contain is described where it is written."""

SUMMARY, PAGE = "summary.json", "report.html"
"""Of a finished run, or of another result of a command."""
EXPERIMENTS = ("random-labels-", "redrawn-labels-", "arbitrary-labels-", "deep-cluster-", "pretexts-")
"""The beginnings of the names of artifacts that are the results of an experiment,"""
RESULTS = ("run-", "transfer-", "filters-", *EXPERIMENTS)
"""or of any command."""
SWEEP_SUMMARY, SWEEP_PAGE = "sweep.json", "sweep.html"
"""Of a finished sweep."""
LEDGER = "ledger.json"
"""Of a sweep: which trial built and used which artifact."""
TRACKING = "tracking"
"""The folder of the curves of all runs."""
PREDICTION, DEDUPLICATION, FILTERS = "predict", "deduplicate", "filters"
"""The beginning of the names of records (store/uses.py) of commands whose results are not in the root."""
