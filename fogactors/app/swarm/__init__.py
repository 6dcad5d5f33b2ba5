"""`fogactors swarm`: what an operator does with the stack on a Docker Swarm, through the docker client."""
