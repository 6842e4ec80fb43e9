"""The embedded default: everything that stands in for the outside world on one machine.

Here belong the private PostGIS, the server that replays recorded sources, the generator of the sample it
serves, and the commands behind `./dev`. Nothing that a deployment with its own database, lake and live
sources runs belongs here, and nothing outside this package imports it.
"""
