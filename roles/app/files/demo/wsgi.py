"""What gunicorn serves."""

from demo.site import create_app

application = create_app()
