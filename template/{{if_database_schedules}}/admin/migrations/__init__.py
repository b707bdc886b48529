"""Made by Django; a service that is updated brings its database up to date when it starts."""
