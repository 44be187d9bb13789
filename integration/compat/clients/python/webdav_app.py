"""A WebDAV server: wsgidav on cheroot, with a folder of its own."""
import os

from cheroot import wsgi
from wsgidav.wsgidav_app import WsgiDAVApp

from compat import APP_PORT, DIR

os.mkdir(f"{DIR}/dav")
config = {"provider_mapping": {"/": f"{DIR}/dav"}, "simple_dc": {"user_mapping": {"*": True}}, "verbose": 1,
          "lock_storage": True}
wsgi.Server(("127.0.0.1", APP_PORT), WsgiDAVApp(config), timeout=300).start()
