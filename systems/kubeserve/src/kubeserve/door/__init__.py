"""The door of a deployment: takes its jobs from the queue, asks replicas of the model, records their answers.

One process serves all deployments of a machine. It holds the queue's credentials and never loads a model: models run in
replicas (`kubeserve.runtime`), behind walls, and are spoken to over Unix sockets.
"""
