"""The operator's page: served to browsers, fed by the control plane and the gateways over HTTP."""
