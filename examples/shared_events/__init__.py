"""Two services that share a package of events, and are deployed at different times.

``ordering`` publishes, ``billing`` subscribes, and what they tell each other is in ``events``: in a
company, three repositories, of which the last is a distribution that the others depend on. Each is
here in two releases. The second one's events are others: a price has a currency now, and a
cancelled order may be refunded. What makes the releases get on with each other is in
``release_2/events``.

``rollout`` runs the services as processes, deploys the second release amid traffic, and compares
what was ordered with what was billed.
"""
