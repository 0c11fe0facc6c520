"""One tiny server per framework, written as its documentation teaches, with its best settings.

    python benchmarks/adapters/NAME.py BEHAVIOUR [idle=SECONDS] [trace=FORMAT]

prints `listening PORT` and serves on 127.0.0.1 until it is killed. Behaviours: `echo`; `relay`, an echo that stops
reading while its peer does not read; `upload`, which reads and drops; `fanout`, where each line goes to all who have
not spoken, with one write per line and member; `churn`, which reads to EOF, then replies with what came, and closes.
`timers count=N` sets and cancels so many timers instead, and prints the seconds it took, how many of these the CPU was
busy, and the most memory in KiB.
"""
