"""The embedded default: everything that stands in for the outside world on one machine.

Here belong the private PostGIS, the server that replays recorded sources, the generator of the sample it
serves, and the commands behind `./dev`. Nothing that the services of a deployment run belongs here, and nothing else
in etl_assets imports it.
"""
