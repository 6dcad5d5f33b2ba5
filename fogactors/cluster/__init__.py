"""RabbitMQ nodes: what to do with one (`plan`), and how."""
