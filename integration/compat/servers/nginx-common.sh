# The first lines of an nginx.conf for a folder of its own.
mkdir -p pages temp
chmod 755 . pages
cat >nginx.conf <<EOF
daemon off;
pid $PWD/nginx.pid;
error_log stderr;
worker_processes 1;
events { worker_connections 1024; }
http {
    access_log off;
    client_body_temp_path $PWD/temp/body;
    proxy_temp_path $PWD/temp/proxy;
    fastcgi_temp_path $PWD/temp/fastcgi;
    uwsgi_temp_path $PWD/temp/uwsgi;
    scgi_temp_path $PWD/temp/scgi;
EOF
if [ "$(id -u)" = 0 ]; then
    sed -i '1i user root;' nginx.conf
fi
