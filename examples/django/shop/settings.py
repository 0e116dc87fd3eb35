import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent

SECRET_KEY = os.environ["SESSION_SECRET"]
DEBUG = True  # in production: False, with ALLOWED_HOSTS, CSRF_COOKIE_SECURE and SESSION_COOKIE_SECURE

FANFARE_URL = os.environ["FANFARE_URL"]
FANFARE_JWT_SECRET = os.environ["FANFARE_JWT_SECRET"]
FANFARE_PUBLISH_TOKEN = os.environ["FANFARE_PUBLISH_TOKEN"]
FANFARE_TOKEN_SECONDS = int(os.environ.get("TOKEN_SECONDS", 600))

INSTALLED_APPS = ["django.contrib.sessions", "django.contrib.staticfiles", "shop"]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "shop.urls"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "tmp/db.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
TIME_ZONE = "UTC"
STATIC_URL = "static/"
