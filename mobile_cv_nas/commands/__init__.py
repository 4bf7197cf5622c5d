"""One file a tool: reads arguments, calls the library, prints."""
