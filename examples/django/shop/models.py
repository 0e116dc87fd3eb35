from django.db import models


class Order(models.Model):
    user = models.CharField(max_length=32, db_index=True)
    item = models.CharField(max_length=200)

    def as_dict(self):
        return {"id": self.id, "item": self.item}
