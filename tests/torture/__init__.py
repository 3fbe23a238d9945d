"""A bus under faults, and a checker that decides whether it held: ``python -m tests.torture``.

``records``     what the processes of a run write down, as it happens
``audit``       what the database writes down by triggers: leases, settlements, heartbeats
``history``     all of that, to be gone through
``account``     what became of single events, those of some keys at a time
``laws``        loss, order, exactly once and honest attempts, decided from accounts
``letters``     the places of what is redriven, and parked keys, decided from a history
``fences``      leases and fencing, decided from a history
``checker``     every law at once, and the figures
``schedule``    which fault comes when: a pure function of the seed
``supervisor``  runs the server, the proxies, the processes, and the faults
``run``         one run from its server's start to the verdict
``publishers``  ``workers``  ``operators``  ``behaviour``: the processes
``mutants``     broken buses that the checker must catch
``scene``       a short history stepped by hand, in which it catches each
"""
