"""The pages' addresses, below ``project/trusted_clones/``."""

from __future__ import annotations

from django.urls import path

from nova_trusted_clone.dashboard import views

urlpatterns = [
    path("", views.IndexView.as_view(), name="index"),
    path("<uuid:instance_id>/clone/", views.CloneView.as_view(), name="clone"),
    path("<uuid:server_id>/<uuid:clone_id>/", views.DetailView.as_view(), name="detail"),
    path("<uuid:server_id>/<uuid:clone_id>/evidence/", views.evidence, name="evidence"),
]
