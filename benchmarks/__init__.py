"""This project beside its peers, measured in one run: `./dev bench`.

One module per benchmark; each makes a `Report`. `measure` says how things are measured, `ground` what they are
measured on. Machines are noisy and differ: read the ratios, not the seconds.
"""
