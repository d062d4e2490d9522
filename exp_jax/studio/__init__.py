"""Where people meet the systems: a queue of jobs with one warm worker process, an HTTP server over
it, and a web page."""
