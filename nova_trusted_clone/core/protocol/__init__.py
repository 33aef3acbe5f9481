"""The exchange between a source and a destination, without any input or output.

* ``states``: the whole picture; ``source``, ``destination``: the two sessions over its tables
* ``events``, ``actions``: what a session is told and what it wants done
* ``messages``, ``order``: what is sent; ``wire``, ``wiretypes``, ``cborscan``: as which bytes
* ``transcript``: what each quote is about; ``proofs``, ``terms``, ``checks``: the judgements
* ``evidence``: all of it again, for whoever was not there
"""
