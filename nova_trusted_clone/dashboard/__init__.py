"""Horizon's part: clone by a button, watch the clones, read their evidence.

It runs in Horizon's own environment (``pip install 'nova-trusted-clone[horizon]'``), knows no nova and thinks nothing of
its own: requests go through ``client``, evidence is judged by ``core``. How it is switched on: ``doc/source/dashboard.rst``.

=============  =====================================================================
enabled        the file that switches the panel on
conf           policy: who sees what; the API decides
apps           what is set when Django starts: policy, columns and actions
cloud          requests on behalf of whoever is logged in
progress       how far a clone is, for a table's cell
actions        the buttons: clone, abort, download
columns        the column in the tables of instances
form, source   the form, and what it has to know of the server
faults         which field an error of the API is about
tables         the list of clones
views, tabs    the pages
lineage        the picture: source, freeze, siblings
attestation    the checks of the evidence, and whom they are about
=============  =====================================================================
"""
