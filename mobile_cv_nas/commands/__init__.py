"""One file a tool: reads arguments, calls the library, prints."""

# {command: its module here}, in the order of --help. tools/MODULE.py and `mobile-cv-nas COMMAND` are both its main().
COMMANDS = {
    "search": "search_net",
    "train": "train_net",
    "train-detector": "train_detector",
    "train-segmenter": "train_segmenter",
    "test": "test_net",
    "predict": "predict",
    "export": "export_net",
    "benchmark": "benchmark_net",
    "summarize": "summarize_net",
    "space": "space_info",
    "blocks": "list_blocks",
    "zoo": "zoo_table",
    "convert": "convert_weights",
    "latency": "latency",
    "derive": "derive_net",
    "compare": "compare",
    "report": "report",
}
