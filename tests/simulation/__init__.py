"""A random walk through what can happen to Airflow, its Pods and the healer, with the healer's real code.

Nothing here has a server or waits: a clock that the walk turns, models of Airflow, KubernetesPodOperator and the API
server, and the real reconciler between them. The models know the truth, so that each DELETE can be judged.
"""
