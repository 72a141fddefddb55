"""What zero-shot agents are made of: networks, pure objectives, the agent's interface and the learner's step."""
